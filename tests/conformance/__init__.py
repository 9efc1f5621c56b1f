"""Does every implementation of a protocol behave alike?"""
