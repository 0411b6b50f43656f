"""The engine for clusters: each machine's store process is a gateway without state of its own to an etcd cluster."""
