"""Replays traces against a real daemon through the public client, and reports what came of it.

The way of a replay: `driver` hands the requests of a trace to users as `agenda` decides, each
`user` fetches and publishes and checks the `content` of blocks, `outcomes` and `samples` are what
is known afterwards, and `report` makes the figures that `table` and `page` show.
"""
