"""One protocol, one module; `registry` finds every one that binds `PROTOCOL`."""
