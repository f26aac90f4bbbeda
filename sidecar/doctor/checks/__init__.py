"""What is looked at: a file for each thing, each with functions from a patient to findings."""
