"""REST: HTTP/1.1, HTTP/2 and Server-Sent Events in, calls of the data plane on."""
