"""Version 1 of the wire: .proto files, and the code generated from them beside each."""
