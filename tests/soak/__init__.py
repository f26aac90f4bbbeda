"""A sidecar that runs for minutes among clients and upstreams of every bad habit.

`python -m tests.soak --minutes 5` starts `sidecar run`, an upstream and some dozens of clients, and
lets faults come over them: each request may ask its upstream for one, and now and then one comes
over a whole process. Every answer is checked for its content. When all have gone, nothing may be
left behind.

| module | holds |
| --- | --- |
| `faults` | what an upstream does to one request, and what its client may then see |
| `contents` | bodies that tell by themselves whom they are for |
| `wire` | a client's side of HTTP/1.1, strict in what it takes |
| `clients` | the clients, one function a kind |
| `storms` | what comes over a whole process |
| `upstream`, `answers` | the upstream, a process of its own, and what it says |
| `inspected` | `sidecar run`, and a look inside it on a signal |
| `processes` | sidecar and upstream from outside |
| `store`, `access_log` | what the sidecar reads, and what it writes |
| `run` | all of it together, and the verdict |
"""
