"""Programs that use optforge the way its users do: through the public API only."""
