"""The gRPC edge: grpclib's server with its hot parts replaced, the protocol's services, health and reflection."""
