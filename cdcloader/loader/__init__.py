"""One table, one step at a time: gather, decide, apply, record, in crash-safe order (DESIGN section 3)."""
