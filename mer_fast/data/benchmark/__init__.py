"""A synthetic benchmark: made people with micro-expressions, whose onset, apex, offset and flow are known exactly."""
