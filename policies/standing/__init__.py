"""How the limits in force stand: of one caller (the usage meter), of an end user, and the fullest of each limit."""
