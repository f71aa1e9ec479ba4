"""What must hold in every simulation, each invariant in a module of its own (docs/reliability.md)."""
