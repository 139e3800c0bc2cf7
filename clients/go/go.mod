module example.com/posthaste

go 1.23.0
