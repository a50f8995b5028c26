package vfs

import (
	"sync"
	"weak"
)

// cacheSize is how many dentries are held that nobody may be using.
const cacheSize = 1 << 15

// cache decides which dentries parents hold strongly: a clock over a fixed
// number of slots. One that is pushed out stays in its parent's table weakly.
type cache struct {
	mu    sync.Mutex
	slots []*Dentry
	free  []int
	hand  int
}

var cached cache

// add takes d in; its parent's mu is held.
func (c *cache) add(d *Dentry) {
	c.mu.Lock()
	if d.slot >= 0 {
		c.mu.Unlock()
		return
	}
	var out *Dentry
	switch n := len(c.free); {
	case n > 0:
		d.slot = c.free[n-1]
		c.free = c.free[:n-1]
		c.slots[d.slot] = d
	case len(c.slots) < cacheSize:
		d.slot = len(c.slots)
		c.slots = append(c.slots, d)
	default:
		out = c.evict()
		d.slot = c.hand
		c.slots[c.hand] = d
		c.hand = (c.hand + 1) % len(c.slots)
	}
	c.mu.Unlock()
	if out != nil {
		out.weaken(d.Parent())
	}
}

// evict empties the slot that the hand stops at.
func (c *cache) evict() *Dentry {
	for {
		d := c.slots[c.hand]
		if !d.used.Swap(false) {
			d.slot = -1
			return d
		}
		c.hand = (c.hand + 1) % len(c.slots)
	}
}

func (c *cache) remove(d *Dentry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.slot < 0 {
		return
	}
	c.slots[d.slot] = nil
	c.free = append(c.free, d.slot)
	d.slot = -1
}

// forget lets go all of a file system that nobody has mounted any more: what is in the
// cache would keep it, and all that it has, for good.
func (c *cache) forget(s *Super) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, d := range c.slots {
		if d != nil && d.super == s {
			c.slots[i], d.slot = nil, -1
			c.free = append(c.free, i)
		}
	}
}

// weaken makes d's parent hold it weakly. held is the one directory whose mu
// the caller has. A parent that is busy keeps d: the cache is then over its size
// by one, until the name is next dropped.
func (d *Dentry) weaken(held *Dentry) {
	at := d.at.Load()
	p := at.parent
	if p == nil || d.mounts.Load() != 0 {
		return
	}
	if p != held {
		if !p.mu.TryLock() {
			return
		}
		defer p.mu.Unlock()
	}
	if e, ok := p.children[at.name]; ok && e.strong == d {
		p.children[at.name] = entry{weak: weak.Make(d)}
	}
}
