"""The way in: AWS JSON over HTTP, and the public gRPC port. It translates and passes on, and holds nothing."""
