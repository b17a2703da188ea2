"""The HTTP API of usage: views that parse, call one domain function and answer."""
