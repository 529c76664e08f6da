"""KServe v2, the Open Inference Protocol, over REST and gRPC: tensors in and out of the same data plane as /v1."""
