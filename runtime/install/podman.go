package install

import "fmt"

// Podman takes a file of its own beside others' (containers.conf(5), "FORMAT" and
// "ENGINE.RUNTIMES TABLE": a name, and where its program may be). It has no place for
// arguments, so that there is no bulkhead-vm.
func podmanPut(h Host, old content) (content, []string, error) {
	b, rest, d, err := apart(old)
	if err != nil {
		return old, nil, err
	}
	table := []string{"engine", "runtimes"}
	if d.has([]string{"engine", "runtimes", handler}) {
		return rest, []string{"the runtime bulkhead has settings of your own and stays as it is"}, nil
	}
	if d.has(table) {
		return old, nil, fmt.Errorf("has a table [engine.runtimes] of your own; put there: %s = [%s]", handler, quoted(h.Program))
	}
	if err := d.takesTable(table); err != nil {
		return old, nil, err
	}
	return b.put(old, "", fmt.Sprintf("[engine.runtimes]\n%s = [%s]\n", handler, quoted(h.Program))), nil, nil
}

func podmanRemove(_ Host, old content) (content, []string, error) {
	_, rest, d, err := apart(old)
	if err != nil {
		return old, nil, err
	}
	if d.has([]string{"engine", "runtimes", handler}) {
		return rest, []string{"the runtime bulkhead is not from bulkhead install and stays"}, nil
	}
	return rest, nil, nil
}
