"""The parts of the in-process transport; `batchyard.rpc.channel` is its door.

A call is one `Exchange`: two pipes of serialized messages and an outcome. The client's half is in `calls`, the
server's in `context` and `handling`. Messages are serialized and parsed as for a socket, which is what isolates the
sides from each other, and costs a microsecond or two.
"""
