package ptrace

import (
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"bulkhead/sentry/platform"
)

// TestStores: which instructions write to where RDI points, as assembled by GNU as.
func TestStores(t *testing.T) {
	for _, c := range []struct {
		code, text string
		want       bool
	}{
		{"0007", "add %al,(%rdi)", true},
		{"480107", "add %rax,(%rdi)", true},
		{"480307", "add (%rdi),%rax", false},
		{"483907", "cmp %rax,(%rdi)", false},
		{"833f05", "cmpl $5,(%rdi)", false},
		{"830705", "addl $5,(%rdi)", true},
		{"80670805", "andb $5,8(%rdi)", true},
		{"f00fc107", "lock xaddl %eax,(%rdi)", true},
		{"f0480fb10f", "lock cmpxchg %rcx,(%rdi)", true},
		{"f0480fc70f", "lock cmpxchg16b (%rdi)", true},
		{"8607", "xchg %al,(%rdi)", true},
		{"488507", "test %rax,(%rdi)", false},
		{"f70701000000", "testl $1,(%rdi)", false},
		{"f717", "notl (%rdi)", true},
		{"48f71f", "negq (%rdi)", true},
		{"f727", "mull (%rdi)", false},
		{"48f73f", "idivq (%rdi)", false},
		{"ff07", "incl (%rdi)", true},
		{"48ff0f", "decq (%rdi)", true},
		{"8807", "mov %al,(%rdi)", true},
		{"668907", "movw %ax,(%rdi)", true},
		{"c70707000000", "movl $7,(%rdi)", true},
		{"c60707", "movb $7,(%rdi)", true},
		{"488944cf10", "mov %rax,0x10(%rdi,%rcx,8)", true},
		{"64488907", "mov %rax,%fs:(%rdi)", true},
		{"4d893f", "mov %r15,(%r15)", true},
		{"678907", "addr32 mov %eax,(%edi)", true},
		{"488b07", "mov (%rdi),%rax", false},
		{"0fb607", "movzbl (%rdi),%eax", false},
		{"486307", "movslq (%rdi),%rax", false},
		{"488d07", "lea (%rdi),%rax", false},
		{"48a38877665544332211", "movabs %rax,0x1122334455667788", true},
		{"48a18877665544332211", "movabs 0x1122334455667788,%rax", false},
		{"8c1f", "mov %ds,(%rdi)", true},
		{"d127", "shll (%rdi)", true},
		{"d32f", "shrl %cl,(%rdi)", true},
		{"48c10703", "rolq $3,(%rdi)", true},
		{"0f9407", "sete (%rdi)", true},
		{"0f4407", "cmove (%rdi),%eax", false},
		{"0fa307", "bt %eax,(%rdi)", false},
		{"0fab07", "bts %eax,(%rdi)", true},
		{"f00fb307", "lock btr %eax,(%rdi)", true},
		{"0fbb07", "btc %eax,(%rdi)", true},
		{"0fba2f03", "btsl $3,(%rdi)", true},
		{"0fba2703", "btl $3,(%rdi)", false},
		{"0fa40703", "shld $3,%eax,(%rdi)", true},
		{"0fad07", "shrd %cl,%eax,(%rdi)", true},
		{"0f38f107", "movbe %eax,(%rdi)", true},
		{"0f38f007", "movbe (%rdi),%eax", false},
		{"f20f38f107", "crc32l (%rdi),%eax", false},
		{"0fc307", "movnti %eax,(%rdi)", true},
		{"0f38f907", "movdiri %eax,(%rdi)", true},
		{"d917", "fsts (%rdi)", true},
		{"dd1f", "fstpl (%rdi)", true},
		{"db3f", "fstpt (%rdi)", true},
		{"df3f", "fistpll (%rdi)", true},
		{"df1f", "fistps (%rdi)", true},
		{"df37", "fbstp (%rdi)", true},
		{"d93f", "fnstcw (%rdi)", true},
		{"d937", "fnstenv (%rdi)", true},
		{"dd37", "fnsave (%rdi)", true},
		{"dd3f", "fnstsw (%rdi)", true},
		{"d907", "flds (%rdi)", false},
		{"db2f", "fldt (%rdi)", false},
		{"df2f", "fildll (%rdi)", false},
		{"d92f", "fldcw (%rdi)", false},
		{"dc07", "faddl (%rdi)", false},
		{"0fae07", "fxsave (%rdi)", true},
		{"480fae07", "fxsave64 (%rdi)", true},
		{"0fae0f", "fxrstor (%rdi)", false},
		{"0fae1f", "stmxcsr (%rdi)", true},
		{"0fae17", "ldmxcsr (%rdi)", false},
		{"0fae27", "xsave (%rdi)", true},
		{"480fae37", "xsaveopt64 (%rdi)", true},
		{"0fc727", "xsavec (%rdi)", true},
		{"0fae2f", "xrstor (%rdi)", false},
		{"0fae3f", "clflush (%rdi)", false},
		{"660fae3f", "clflushopt (%rdi)", false},
		{"660fae37", "clwb (%rdi)", false},
		{"0f180f", "prefetcht0 (%rdi)", false},
		{"0f1107", "movups %xmm0,(%rdi)", true},
		{"0f1007", "movups (%rdi),%xmm0", false},
		{"f30f1107", "movss %xmm0,(%rdi)", true},
		{"f30f1007", "movss (%rdi),%xmm0", false},
		{"f20f1107", "movsd %xmm0,(%rdi)", true},
		{"440f290f", "movaps %xmm9,(%rdi)", true},
		{"660f2907", "movapd %xmm0,(%rdi)", true},
		{"0f1307", "movlps %xmm0,(%rdi)", true},
		{"660f1707", "movhpd %xmm0,(%rdi)", true},
		{"0f1207", "movlps (%rdi),%xmm0", false},
		{"0f2b07", "movntps %xmm0,(%rdi)", true},
		{"660fe707", "movntdq %xmm0,(%rdi)", true},
		{"0fe707", "movntq %mm0,(%rdi)", true},
		{"660f7e07", "movd %xmm0,(%rdi)", true},
		{"660f6e07", "movd (%rdi),%xmm0", false},
		{"660fd607", "movq %xmm0,(%rdi)", true},
		{"0f7f07", "movq %mm0,(%rdi)", true},
		{"f30f7e07", "movq (%rdi),%xmm0", false},
		{"660f7f07", "movdqa %xmm0,(%rdi)", true},
		{"f30f7f07", "movdqu %xmm0,(%rdi)", true},
		{"f30f6f07", "movdqu (%rdi),%xmm0", false},
		{"0f5807", "addps (%rdi),%xmm0", false},
		{"660f7407", "pcmpeqb (%rdi),%xmm0", false},
		{"660f3a140701", "pextrb $1,%xmm0,(%rdi)", true},
		{"660f3a150701", "pextrw $1,%xmm0,(%rdi)", true},
		{"66480f3a160701", "pextrq $1,%xmm0,(%rdi)", true},
		{"660f3a170701", "extractps $1,%xmm0,(%rdi)", true},
		{"660f3a220701", "pinsrd $1,(%rdi),%xmm0", false},
		{"c5fc1107", "vmovups %ymm0,(%rdi)", true},
		{"c5fc1007", "vmovups (%rdi),%ymm0", false},
		{"c57d7f07", "vmovdqa %ymm8,(%rdi)", true},
		{"c4417a7f00", "vmovdqu %xmm8,(%r8)", true},
		{"c5f9d607", "vmovq %xmm0,(%rdi)", true},
		{"c5fa7e07", "vmovq (%rdi),%xmm0", false},
		{"c5f97e07", "vmovd %xmm0,(%rdi)", true},
		{"c5fde707", "vmovntdq %ymm0,(%rdi)", true},
		{"c4e37d190701", "vextractf128 $1,%ymm0,(%rdi)", true},
		{"c4e37d390701", "vextracti128 $1,%ymm0,(%rdi)", true},
		{"c4e37d380f01", "vinserti128 $1,(%rdi),%ymm0,%ymm1", false},
		{"c4e2752e07", "vmaskmovps %ymm0,%ymm1,(%rdi)", true},
		{"c4e2752c07", "vmaskmovps (%rdi),%ymm1,%ymm0", false},
		{"c4e2758e07", "vpmaskmovd %ymm0,%ymm1,(%rdi)", true},
		{"c4e37d1d0700", "vcvtps2ph $0,%ymm0,(%rdi)", true},
		{"c5f8ae1f", "vstmxcsr (%rdi)", true},
		{"c4e1f8910f", "kmovq %k1,(%rdi)", true},
		{"c4e1f8900f", "kmovq (%rdi),%k1", false},
		{"62f17c481107", "vmovups %zmm0,(%rdi)", true},
		{"62e1fe487f4f01", "vmovdqu64 %zmm17,64(%rdi)", true},
		{"62e1fe486f0f", "vmovdqu64 (%rdi),%zmm17", false},
		{"62e17f497f0f", "vmovdqu8 %zmm17,(%rdi){%k1}", true},
		{"62f17c482b1f", "vmovntps %zmm3,(%rdi)", true},
		{"62f3fd483b0701", "vextracti64x4 $1,%zmm0,(%rdi)", true},
		{"62f37d48190701", "vextractf32x4 $1,%zmm0,(%rdi)", true},
		{"62f27e483507", "vpmovqd %zmm0,(%rdi)", true},
		{"62f27e481107", "vpmovusdb %zmm0,(%rdi)", true},
		{"62f27e482007", "vpmovswb %zmm0,(%rdi)", true},
		{"62f27d498b07", "vpcompressd %zmm0,(%rdi){%k1}", true},
		{"62f27d496307", "vpcompressb %zmm0,(%rdi){%k1}", true},
		{"62f2fd498a07", "vcompresspd %zmm0,(%rdi){%k1}", true},
		{"62f27d498907", "vpexpandd (%rdi),%zmm0{%k1}", false},
		{"62f27d49a0048f", "vpscatterdd %zmm0,(%rdi,%zmm1,4){%k1}", true},
		{"62f2fd49a304cf", "vscatterqpd %zmm0,(%rdi,%zmm1,8){%k1}", true},
		{"62f27d4990048f", "vpgatherdd (%rdi,%zmm1,4),%zmm0{%k1}", false},
		{"62f57e081107", "vmovsh %xmm0,(%rdi)", true},
		{"62f57e081007", "vmovsh (%rdi),%xmm0", false},
		{"62f57d087e07", "vmovw %xmm0,(%rdi)", true},
		{"62f17d48fe0f", "vpaddd (%rdi),%zmm0,%zmm1", false},
		{"ff27", "jmp *(%rdi)", false},
		{"ff17", "call *(%rdi)", false},
		{"ff37", "push (%rdi)", false},
		{"8f07", "pop (%rdi)", true},
		{"f3aa", "rep stosb", true},
		{"48ab", "stosq", true},
		{"48ad", "lodsq", false},
		{"ae", "scasb", false},
		{"a6", "cmpsb", false},
		{"0f1f07", "nopl (%rdi)", false},
		{"0f0b", "ud2", false},
		{"4889c3", "mov %rax,%rbx", false},
	} {
		code, err := hex.DecodeString(c.code)
		if err != nil {
			t.Fatal(err)
		}
		r := platform.Registers{Rdi: 0x10_0000, Rsi: 0x20_0000, Rsp: 0x30_0000}
		if got := stores(code, &r, r.Rdi); got != c.want {
			t.Errorf("%s (%s): got %v, want %v", c.text, c.code, got, c.want)
		}
		for n := range code { // cut off, it must not be taken for another
			if got := stores(code[:n], &r, r.Rdi); got && !c.want {
				t.Errorf("the first %d bytes of %s: got %v", n, c.text, got)
			}
		}
	}
}

// TestStoresStack: instructions that use memory twice.
func TestStoresStack(t *testing.T) {
	const rdi, rsi, rsp = 0x10_0000, 0x20_0000, 0x30_0000
	for _, c := range []struct {
		code, text string
		addr       uint64
		want       bool
	}{
		{"50", "push %rax", rsp - 8, true},
		{"50", "push %rax, unaligned", rsp - 3, true},
		{"50", "push %rax", rsp, false},
		{"4157", "push %r15", rsp - 8, true},
		{"6a01", "push $1", rsp - 8, true},
		{"9c", "pushf", rsp - 8, true},
		{"e800000000", "call", rsp - 8, true},
		{"ffd0", "call *%rax", rsp - 8, true},
		{"ff17", "call *(%rdi)", rsp - 8, true},
		{"ff17", "call *(%rdi)", rdi, false},
		{"ff37", "push (%rdi)", rsp - 8, true},
		{"8f07", "pop (%rdi)", rdi, true},
		{"8f07", "pop (%rdi)", rsp, false},
		{"58", "pop %rax", rsp, false},
		{"c3", "ret", rsp, false},
		{"c9", "leave", rsp, false},
		{"f3a4", "rep movsb", rdi, true},
		{"f3a4", "rep movsb", rsi, false},
		{"48a5", "movsq", rdi + 7, true},
		{"48a5", "movsq", rsi, false},
	} {
		code, err := hex.DecodeString(c.code)
		if err != nil {
			t.Fatal(err)
		}
		r := platform.Registers{Rdi: rdi, Rsi: rsi, Rsp: rsp}
		if got := stores(code, &r, c.addr); got != c.want {
			t.Errorf("%s at %#x: got %v, want %v", c.text, c.addr, got, c.want)
		}
	}
}

func FuzzStores(f *testing.F) {
	f.Add([]byte{0x48, 0x89, 0x07}, uint64(0x1000))
	f.Add([]byte{0x62, 0xf1, 0x7c, 0x48, 0x11, 0x07}, uint64(0x1000))
	f.Fuzz(func(_ *testing.T, code []byte, addr uint64) {
		stores(code[:min(len(code), 16)], &platform.Registers{Rdi: addr, Rsp: ^addr}, addr)
	})
}

// TestRegions compares regions with an array of pages.
func TestRegions(t *testing.T) {
	type page struct {
		mapped bool
		off    int64
		access platform.Access
	}
	const pages = 64
	var model [pages]page
	var rs regions
	for range 20000 {
		lo := rand.IntN(pages)
		hi := lo + 1 + rand.IntN(min(12, pages-lo))
		s := span{platform.Addr(lo) * platform.PageSize, platform.Addr(hi) * platform.PageSize}
		i, j := rs.cut(s)
		access := platform.Access(rand.IntN(4))
		switch rand.IntN(4) {
		case 0:
			rs.replace(i, j)
			clear(model[lo:hi])
		case 1:
			for k := i; k < j; k++ {
				rs[k].access = access
			}
			rs.join(i-1, j)
			for k := lo; k < hi; k++ {
				if model[k].mapped {
					model[k].access = access
				}
			}
		default:
			off := int64(rand.IntN(4)*pages+lo) * platform.PageSize
			rs.replace(i, j, region{start: s.start, end: s.end, offset: off, access: access})
			for k := lo; k < hi; k++ {
				model[k] = page{true, off + int64(k-lo)*platform.PageSize, access}
			}
		}
		runs := 0
		for k, want := range model {
			at := platform.Addr(k) * platform.PageSize
			r, ok := rs.at(at)
			got := page{ok, r.offset + int64(at-r.start), r.access}
			if !ok {
				got = page{}
			}
			if got != want {
				t.Fatalf("page %d: got %+v, want %+v", k, got, want)
			}
			joined := k > 0 && model[k-1].mapped && model[k-1].access == want.access && model[k-1].off+platform.PageSize == want.off
			if want.mapped && !joined {
				runs++
			}
		}
		if len(rs) != runs {
			t.Fatalf("%d regions for %d runs", len(rs), runs)
		}
	}
}
