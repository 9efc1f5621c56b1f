"""Hold bytes: device, host and disk, behind one protocol."""
