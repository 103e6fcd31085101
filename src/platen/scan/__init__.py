"""Finds things in texts: secrets and personal data, and the words of a list.

Guards on prompts and answers use it, and so does the cleaning of corpora.
"""
