"""Audio: files to samples, samples to log-mel spectrograms, long recordings to pieces. NumPy, soundfile, soxr."""
