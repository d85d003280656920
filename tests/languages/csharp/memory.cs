using System;
using System.Collections.Generic;

class Program {
    static void Main(string[] args) {
        var kept = new List<byte[]>();
        while (true) { var a = new byte[1 << 20]; for (int i = 0; i < a.Length; i += 512) a[i] = 1; kept.Add(a); }
    }
}
