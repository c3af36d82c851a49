"""Messages of the gRPC interfaces that container runtimes offer, made by scripts/generate-wire.sh.

`cri.proto` and `containerd.proto` hold the parts that are used here, with the field numbers published in
kubernetes/cri-api (runtime.v1) and containerd/api (services.containers.v1, services.namespaces.v1). Unknown
fields are skipped (Protocol Buffers, encoding), so newer and older runtimes are understood alike.
"""
