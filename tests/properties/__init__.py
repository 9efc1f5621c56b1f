"""Do laws hold for any sequence of events?"""
