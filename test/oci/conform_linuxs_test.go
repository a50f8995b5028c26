package oci

func linuxRules() []rule { return nil }
