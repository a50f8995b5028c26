package oci

func resourceRules() []rule { return nil }
