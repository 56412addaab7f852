"""The mesh itself: plans, devices, skills, members, links and the one service that drives them."""
