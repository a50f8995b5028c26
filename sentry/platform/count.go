package platform

// Counter is one of a platform's figures. Its name is a word of the platform's own:
// lower case, digits and underscores.
type Counter struct {
	Name  string
	Value uint64
	Level bool // it is how much there is now; others only grow
}

// Counted is what a Platform implements that counts what it does. The names and
// their order are the same at each call.
type Counted interface{ Counters() []Counter }
