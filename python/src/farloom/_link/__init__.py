"""The client's end of the client–service hop (PROTOCOL.md): one WebSocket, one thread, custody of what is sent.

task        one submitted call, as the link holds it
stream      credit, lanes and custody: pure counting, no sockets
connection  one WebSocket, sans-I/O, over a plain or TLS socket
inbound     what each frame that comes does
settle      results to ends
custody     what the link holds, and what it says next
link        the thread that keeps a session open and moves tasks and results
"""
