"""Hands from images: what every camera driver shares.

``landmarks`` finds hands in a colour image, ``lifter`` puts them into metres with the help of a
depth image. Both are lazy: importing this package needs numpy only.
"""
