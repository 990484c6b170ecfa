"""Run again what ran before, here or elsewhere: resume, attach, bisect, replay, reproduce."""
