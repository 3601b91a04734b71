"""The web page of an installation, at `/` of the gateway's port: made by the server, live by server-sent events."""
