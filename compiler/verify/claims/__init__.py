"""The claims of specs: decided by proof or by cases."""
