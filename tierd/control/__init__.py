"""Decides what each request gets and what moves where; pure, with time as an argument."""
