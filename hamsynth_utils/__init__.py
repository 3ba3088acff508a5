"""HamSynth: synthetic dermoscopic images, made, used and honestly tested.

Importing the package downloads nothing and touches no device.
"""
