"""The server over HTTP: for clients that share it, on this machine or behind TLS.

The one rule: without the token nothing but `/health` is answered, and nothing else of a request is looked at. So who
can only reach the port (another user, a web page, another container) has nothing.
"""
