"""An Android device that is a process of this machine: the device side of the adb protocol over loopback TCP.

The platform's own `adb` connects to it as to a phone on the network. Its shell knows the commands that Handheld sends
and no others, its `/data/local/tmp` is a folder of the test, and what it says of itself comes from `phones/*.yaml`.
Programs in `/data/local/tmp` really run: x86 ones as they are, arm64 ones under qemu where the phone is an arm64 one.

    python -m tests.devices.android.loopback --port 15555 --root SANDBOX --phone pixel8 --fault drop-run=5

`fleet.py` starts such phones and an adb server of their own for a test, and ends them.
"""
