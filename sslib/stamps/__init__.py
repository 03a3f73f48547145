"""The embedded data set: real cut-outs and recordings, composed into scenes whose every sounding pixel is known."""
