package container

// chooseWall takes a machine where this host runs one natively, has what one boots, and the
// container asks for nothing that a machine cannot do; else the Sentry.
func (n *creation) chooseWall() string {
	err := n.pickWall(vmWall)
	if err == nil {
		err = n.openBoot()
	}
	if err != nil {
		n.rt.Log.Debug("isolation auto takes the Sentry", "container", n.ID, "why", err)
		return sentryWall
	}
	return vmWall
}
