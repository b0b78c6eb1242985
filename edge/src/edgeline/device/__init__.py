"""What keeps a model on a device right: it is pulled, verified, tried, switched to, and watched.

`state` is the folder where everything lies, and all that predicting offline needs. `update` brings
it up to date by way of `download`, `selection` and `trial`; `watch` does so again and again, and
`health` tells how it goes. `doctor` and `bench` are for the people who look after the device.
"""
