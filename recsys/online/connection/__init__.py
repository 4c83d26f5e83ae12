"""The connection to Redis: a server named in the settings, or one started for the data folder.

Commands turn failures into clear errors; parsing refuses invalid values.
"""
