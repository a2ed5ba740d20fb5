"""The language of all stages: nodes, types, operators, and what can be said of them without text, torch or reports."""
