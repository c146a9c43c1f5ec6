"""Suits, gloves and other programs that send hands over the network: one module a protocol.

Each module has a pure decoder (bytes in, samples out; it counts what it refuses and raises
``PacketError`` and nothing else) and a thin driver around it. ``udp`` is the shell that the
datagram protocols share, ``geometry`` the axes and the default hand.

None of these protocols authenticates its sender: whoever reaches the port can move the hand. The
drivers therefore listen on loopback until ``host`` says otherwise, and ``senders`` narrows down
whom they listen to.
"""
