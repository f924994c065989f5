"""Trying: a local page on which people put in a photo, voice, prompt or text of their own, and see what models answer.

What a kind of model needs for it is in the kind's `trying.py`; pages and servers are the same for all.
"""
