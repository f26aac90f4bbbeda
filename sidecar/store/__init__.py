"""Where Better Auth keeps users, sessions, organizations, members and API keys."""
