package oci

func processRules() []rule { return nil }
