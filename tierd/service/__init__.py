"""Touches the world: gRPC, descriptor hand-off, configuration, clock, metrics and wiring."""
