using System.IO;

class Maker
{
    static void Main()
    {
        File.WriteAllText("out.txt", "made by csharp\n");
    }
}
