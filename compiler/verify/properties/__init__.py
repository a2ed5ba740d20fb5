"""What every generated optimizer must keep, whatever its equations."""
