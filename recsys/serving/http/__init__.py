"""The HTTP interface: routes, wire types, the signed cursor, Prometheus metrics."""
