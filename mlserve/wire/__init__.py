"""The bytes of the protocol: V2 JSON, V2 binary and protobuf, to and from the types of `mlserve.types`."""
