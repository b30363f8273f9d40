"""A stand-in for the users' own profile service: for local runs, tests and compose.

`python -m include.user_service --host 127.0.0.1 --port 8099`, or any ASGI server with `include.user_service.app:app`.
"""
