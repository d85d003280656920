using System;
using System.IO;

class Reader
{
    static void Main()
    {
        Console.Write(File.ReadAllText("out.txt"));
    }
}
