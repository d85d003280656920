package org.example.echo;

import java.io.*;

public class Echo {
    public static void main(String[] args) throws Exception {
        var reader = new BufferedReader(new InputStreamReader(System.in));
        System.out.println("« " + reader.readLine() + " »");
    }
}
